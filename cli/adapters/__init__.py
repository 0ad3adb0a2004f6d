"""What the commands need of the outside: AWS by service, the CDK's command-line tool, this machine's files."""
