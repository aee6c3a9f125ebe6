"""`kdad predict`: a trained detector judges pictures, and what it says is written down."""
