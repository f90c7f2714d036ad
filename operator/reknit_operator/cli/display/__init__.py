"""What a person sees of a running job: a pure view of its records, as lines or live."""
