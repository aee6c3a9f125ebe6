"""A trained detector applied to pictures: loaded, asked, and its answers drawn. Knows neither Hydra nor a trainer."""
