//! (room: catalog)
