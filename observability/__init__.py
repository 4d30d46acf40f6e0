"""OpenTelemetry set-up and every span, attribute and metric name."""
