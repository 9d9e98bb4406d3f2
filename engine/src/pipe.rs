//! A tarball on its way through a pipe, from a thread that writes it to the caller, who reads it.

use std::io::{self, PipeReader, PipeWriter};
use std::thread;

use crate::{Error, Result};

/// Runs both ends, and returns what the reader made of it. Of two failures the one that caused the other is told: a writer
/// whose reader has gone meets a broken pipe, and any other failure of it cuts off what is read.
pub(crate) fn through<T>(
    write: impl FnOnce(PipeWriter) -> Result<()> + Send,
    read: impl FnOnce(&mut PipeReader) -> Result<T>,
) -> Result<T> {
    let (mut reader, writer) = io::pipe().map_err(Error::io(|| "make a pipe"))?;
    thread::scope(|scope| {
        let writing = scope.spawn(|| write(writer));
        let taken = read(&mut reader);
        // Whoever still writes is told that nobody reads.
        drop(reader);
        let panicked = |_| Err(Error::Invalid("reading a layer panicked".to_owned()));
        match writing.join().unwrap_or_else(panicked) {
            Err(error) if taken.is_ok() || !is_broken_pipe(&error) => Err(error),
            _ => taken,
        }
    })
}

fn is_broken_pipe(error: &Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn told(error: &str) -> Error {
        Error::Invalid(error.to_owned())
    }

    fn write_much(mut pipe: PipeWriter) -> Result<()> {
        pipe.write_all(&vec![0; 1 << 20]).map_err(Error::io(|| "write"))
    }

    fn read_all(pipe: &mut PipeReader) -> Result<usize> {
        pipe.read_to_end(&mut Vec::new()).map_err(Error::io(|| "read"))
    }

    #[test]
    fn the_failure_that_caused_the_other_is_told() {
        assert_eq!(through(write_much, read_all).unwrap(), 1 << 20);
        let reader = through(write_much, |_| Err::<(), _>(told("refused")));
        assert_eq!(reader.unwrap_err().to_string(), "refused");
        let writer = through(|_| Err(told("no layer")), |_| Err::<(), _>(told("cut off")));
        assert_eq!(writer.unwrap_err().to_string(), "no layer");
        assert_eq!(through(|_| Err(told("no layer")), read_all).unwrap_err().to_string(), "no layer");
    }
}
