"""The error that a user can fix without reading code."""


class DataError(Exception):
    """A problem with a file or a record: the message is one sentence that names the file, what is wrong and what to do."""


class OutputError(DataError):
    """Results cannot be stored, so that going on with other files is of no use; what was stored before stays."""
