"""What several tests share: doors, runs, processes, tolerances, and how tests ask for traits of optimizers."""
