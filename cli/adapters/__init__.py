"""Adapters of the commands: AWS's services, the CDK's command-line tool, local files."""
