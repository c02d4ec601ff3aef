"""What a run reports while it goes on: typed events, and the listeners that show them or write them down."""
