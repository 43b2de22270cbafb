//! Golden transcripts, in process and against the real program.
