"""The one way in which the embedded servers refuse."""


class EmbeddedError(Exception):
    """The servers cannot run here. The text says why and is fit to be shown to the person at the terminal."""
