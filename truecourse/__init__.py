"""The shared words of Truecourse: settings, problems, storage, tables, references, errors, statistics."""
