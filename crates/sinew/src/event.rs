//! Something happened: each event as a descriptor.
