"""What users write: the InferenceAutoscaler resource, engines and PromQL, checked; pure."""
