"""Studies whose trials Optuna proposes, and the best settings found."""
