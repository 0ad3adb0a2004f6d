"""What the node agent, the Lambdas and the stacks agree on.

Standard library only, and no clock, randomness or I/O: all three import it, and a Lambda's package holds nothing
else of the agent.
"""
