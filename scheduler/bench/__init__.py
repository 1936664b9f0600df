"""The users' own yardstick: drives any server of the Scheduler contract and measures it from outside (`scheduler bench`)."""
