"""The pack's jobs for thousands of files, from the command line."""
