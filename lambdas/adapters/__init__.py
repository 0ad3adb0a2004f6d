"""EC2 and DynamoDB as the Lambdas use them, and their twins in memory. No decisions."""
