"""An app of the project that the queues run in: what jobs read and write through Django's ORM."""
