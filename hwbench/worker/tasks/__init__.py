"""The loops that run a model, one module per task.

Each has ``run(job: JobContext) -> dict`` and writes its arrays into the job's folder.
"""
