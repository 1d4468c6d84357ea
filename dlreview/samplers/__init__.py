"""How samples are drawn: noise schedules, ddpm, ddim, guidance."""
