//! The screen of `top`, and the same as plain text.

use std::fmt::Write as _;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use super::model::{PARTS, View};
use crate::report::text::{count, table};

/// What surrounds a view.
pub struct Around<'a> {
    /// Where it comes from.
    pub source: &'a str,
    /// Running, paused, ended.
    pub status: &'a str,
    /// What is missing; empty: nothing.
    pub loss: &'a str,
    /// The last that the program said.
    pub console: &'a [String],
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BAD: Style = Style::new().fg(Color::Red);

const PROCESS_HEADING: [&str; 9] = [
    "pid",
    "name",
    "faults",
    "copies",
    "reuses",
    "cycles",
    "private",
    "shared",
    "copies over time",
];
const LINE_HEADING: [&str; 5] = [
    "copies",
    "reuses",
    "cycles",
    "copies over time",
    "line that breaks sharing",
];

fn headline(view: &View) -> String {
    format!(
        "{:.3} s  {} events  {} faults  {} copies  {} reuses",
        view.seconds,
        count(view.events),
        count(view.faults),
        count(view.copies),
        count(view.reuses)
    )
}

fn process_rows(view: &View) -> impl Iterator<Item = (bool, Vec<String>)> {
    view.processes.iter().map(|process| {
        let pages = |pages: Option<u32>| pages.map(count).unwrap_or_default();
        let cells = vec![
            process.pid.to_string(),
            process.name.clone(),
            count(process.faults),
            count(process.copies),
            count(process.reuses),
            count(process.cycles),
            pages(process.pages.map(|(private, _)| private)),
            pages(process.pages.map(|(_, shared)| shared)),
            process.over_time.clone(),
        ];
        (process.alive, cells)
    })
}

fn line_rows(view: &View) -> impl Iterator<Item = Vec<String>> {
    view.lines.iter().map(|line| {
        vec![
            count(line.copies),
            count(line.reuses),
            count(line.cycles),
            line.over_time.clone(),
            line.place.clone(),
        ]
    })
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, view: &View, around: &Around<'_>) {
    let console = match around.console.len() {
        0 => 0,
        lines => lines.min(6) as u16 + 1,
    };
    let processes = view.processes.len() as u16 + 2;
    let [head, spark, upper, lower, said, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(processes),
        Constraint::Min(3),
        Constraint::Length(console),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let title = format!("cowscope top  {}  {}", around.source, around.status);
    frame.render_widget(Line::styled(title, BOLD), head);
    let over_time = format!("{}  {}", headline(view), view.over_time);
    frame.render_widget(Line::raw(over_time), spark);

    let rows = process_rows(view).map(|(alive, cells)| {
        let style = if alive { Style::new() } else { DIM };
        Row::new(cells).style(style)
    });
    let numbers = [9, 9, 9, 13, 9, 9].map(Constraint::Length);
    let widths = [Constraint::Length(6), Constraint::Min(8)]
        .into_iter()
        .chain(numbers)
        .chain([Constraint::Length(PARTS as u16)]);
    let block = || Block::new().borders(Borders::TOP);
    let processes = Table::new(rows, widths)
        .header(Row::new(PROCESS_HEADING).style(DIM))
        .block(block().title("Processes"));
    frame.render_widget(processes, upper);

    let widths = [
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(13),
        Constraint::Length(PARTS as u16),
        Constraint::Min(20),
    ];
    let lines = Table::new(line_rows(view).map(Row::new), widths)
        .header(Row::new(LINE_HEADING).style(DIM))
        .block(block().title("Who breaks copy-on-write"));
    frame.render_widget(lines, lower);

    if console > 0 {
        let last = around
            .console
            .len()
            .saturating_sub(usize::from(console) - 1);
        let text = around.console[last..].iter().map(|line| Line::raw(&**line));
        let said_last = Paragraph::new(text.collect::<Vec<_>>()).block(block().title("Output"));
        frame.render_widget(said_last, said);
    }
    let keys = match around.loss {
        "" => Line::styled("q quit  p pause", DIM),
        loss => Line::styled(loss, BAD),
    };
    frame.render_widget(keys, foot);
}

/// The same for a file or a pipe.
pub fn text(view: &View, around: &Around<'_>) -> String {
    let mut text = format!("{}  {}\n", headline(view), around.status);
    let mut rows = vec![PROCESS_HEADING.map(str::to_owned).to_vec()];
    rows.extend(process_rows(view).map(|(_, cells)| cells));
    text.push_str(&table(&rows, &[1, 8], "  "));
    let mut rows = vec![LINE_HEADING.map(str::to_owned).to_vec()];
    rows.extend(line_rows(view));
    if rows.len() > 1 {
        text.push_str(&table(&rows, &[3, 4], "  "));
    }
    if !around.loss.is_empty() {
        let _ = writeln!(text, "  {}", around.loss);
    }
    text
}
