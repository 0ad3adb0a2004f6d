"""The infrastructure as CDK stacks: `constructs` defines the resources, `settings` configures them."""
