"""The parts of the ``rqa`` command, a module for each subject; what is heavy is imported when a command runs."""
