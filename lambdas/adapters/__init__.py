"""EC2, Auto Scaling and DynamoDB as the Lambdas use them, and in-memory fakes of them. No decisions are made here."""
