"""What a start, a stop, a listing and an idle minute cost, beside the floor: a bare fork of the same bot."""
