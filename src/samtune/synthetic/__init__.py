"""Images drawn by chance with exact masks: scenes, the demo's export, benchmark images. Knows no torch."""
