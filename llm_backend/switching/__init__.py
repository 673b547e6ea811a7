"""Who holds the device: a pure scheduler that decides, and the switcher that owns and acts."""
