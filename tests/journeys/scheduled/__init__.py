"""An app whose tasks have schedules; only the workers with its settings know of them."""
