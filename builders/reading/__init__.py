"""What readers share: JSON and text in bounded memory, fields and turns with clear refusals, templates by draw."""
