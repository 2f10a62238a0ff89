"""What things are: the nouns of Tarsia as frozen models and Arrow schemas. Imports nothing else of Tarsia."""
