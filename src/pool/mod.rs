//! (room: pool)
