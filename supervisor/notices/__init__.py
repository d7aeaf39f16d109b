"""Who is to know is told: what happens to bots goes to the webhooks of the settings, grouped, signed and retried."""
