"""All that knows Hydra: schemas, how an entry point runs, sweeps, resuming."""
