//! The same door from one seed: torn writes, lost caches, bit rot, delays.
