"""The full edition: many places, a large cast, companions, cameras."""
