"""E-variables, and the wealth that bets on them make."""
