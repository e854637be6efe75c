"""A small server: a page that shows denoising live, and an API. Needs the extra `serve`."""
