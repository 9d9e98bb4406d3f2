//! The host's ports, held before they are promised.

use std::cell::RefCell;
use std::net::{Ipv4Addr, TcpListener};
use std::rc::Rc;

use mica_core::network::Publish;
use mica_engine::ports::Reserved;

use super::{Contender, HAND, Row};
use crate::Result;
use crate::network::{BOTH, failed};
use crate::stage::Stage;

/// One port, which the caller names or leaves open, and a thousand.
pub(crate) fn reserve(_: &Stage) -> Result<Vec<Row<'_>>> {
    let contenders = vec![
        by_hand(),
        contender("one port", "8080:80")?,
        contender("any port", "80")?,
        contender("1,000 ports", "3000-3999:3000-3999")?,
    ];
    Ok(vec![Row { name: "net.reserve", contenders, bounds: Vec::new() }])
}

/// A socket of one family, which even listens.
fn by_hand() -> Contender<'static> {
    holding(HAND, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).map_err(failed("bind a port")))
}

fn contender(name: &str, wish: &str) -> Result<Contender<'static>> {
    let wish: Publish = wish.parse().map_err(|e: mica_core::Error| e.to_string())?;
    Ok(holding(name, move || Reserved::reserve(&[wish], BOTH, &|_| None).map_err(|e| e.to_string())))
}

/// What is taken is given back after the turn.
fn holding<T: 'static>(name: &str, take: impl Fn() -> Result<T> + 'static) -> Contender<'static> {
    let kept: Rc<RefCell<Option<T>>> = Rc::default();
    let dropped = kept.clone();
    Contender::call(name, move || {
        *kept.borrow_mut() = Some(take()?);
        Ok(())
    })
    .after(move || {
        drop(dropped.take());
        Ok(())
    })
}
