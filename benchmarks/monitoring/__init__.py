"""The drift test: CPU time, false alarms and power, beside Evidently."""
