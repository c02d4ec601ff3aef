"""What a run tells while it goes on: typed events and the listeners that write them down."""
