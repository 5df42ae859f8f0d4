"""The only place that knows boto3: words of AWS come in, nouns of ours go out."""
