"""Teams of PettingZoo's parallel environments: an entry for the registry, spaces of actions, what MPE's worlds need."""
