"""From what the API server and Prometheus said to what the law looks at; pure."""
