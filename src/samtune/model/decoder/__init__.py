"""The mask decoder: the reference path, the fast path, its upscaling."""
