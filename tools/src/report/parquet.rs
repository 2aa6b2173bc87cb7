//! Faults as a Parquet file: a row each, with the names of the other formats. Addresses,
//! descriptors and frames are numbers here.

use std::fs::File;
use std::io;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::row::Row;
use super::summary::SCHEMA_VERSION;

/// Rows that are held in memory, and are written together.
const GROUP: usize = 64 * 1024;

/// What a column holds. Numbers are unsigned.
#[derive(Clone, Copy)]
enum Holds {
    Real,
    Number,
    MaybeNumber,
    Text,
    MaybeText,
}

enum Field<'a> {
    Real(f64),
    Number(Option<u64>),
    Text(Option<&'a str>),
}

const COLUMNS: [(&str, Holds); 29] = [
    ("time_us", Holds::Real),
    ("cpu", Holds::Number),
    ("pid", Holds::Number),
    ("tid", Holds::Number),
    ("thread", Holds::MaybeText),
    ("name", Holds::Text),
    ("space", Holds::Number),
    ("asid", Holds::Number),
    ("outcome", Holds::Text),
    ("access", Holds::Text),
    ("origin", Holds::Text),
    ("address", Holds::Number),
    ("mapping", Holds::MaybeText),
    ("mapping_offset", Holds::MaybeNumber),
    ("pc", Holds::Number),
    ("function", Holds::MaybeText),
    ("file", Holds::MaybeText),
    ("line", Holds::MaybeNumber),
    ("esr", Holds::Number),
    ("old", Holds::Number),
    ("new", Holds::Number),
    ("old_frame", Holds::MaybeNumber),
    ("new_frame", Holds::MaybeNumber),
    ("references", Holds::Number),
    ("references_after", Holds::Number),
    ("sharers", Holds::Text),
    ("tlbis", Holds::Number),
    ("cost_cycles", Holds::Number),
    ("broke_fork_of", Holds::MaybeNumber),
];

/// In the order of [`COLUMNS`].
fn fields<'a>(row: &'a Row<'a>) -> [Field<'a>; COLUMNS.len()] {
    let number = |number: u64| Field::Number(Some(number));
    let small = |number: u32| Field::Number(Some(number.into()));
    let text = |text: &'a str| Field::Text(Some(text));
    [
        Field::Real(row.time_us),
        small(row.cpu.into()),
        small(row.pid),
        small(row.tid),
        Field::Text(row.thread),
        text(row.name),
        small(row.space),
        small(row.asid.into()),
        text(row.outcome),
        text(row.access),
        text(row.origin),
        number(row.address),
        Field::Text(row.mapping),
        Field::Number(row.mapping_offset),
        number(row.pc),
        Field::Text(row.function),
        Field::Text(row.file),
        Field::Number(row.line.map(u64::from)),
        number(row.esr),
        number(row.old),
        number(row.new),
        Field::Number(row.old_frame),
        Field::Number(row.new_frame),
        small(row.references),
        small(row.references_after),
        text(&row.sharers),
        small(row.tlbis.into()),
        small(row.cost_cycles),
        Field::Number(row.broke_fork_of.map(u64::from)),
    ]
}

#[derive(Default)]
struct Column {
    reals: Vec<f64>,
    numbers: Vec<i64>,
    texts: Vec<ByteArray>,
    /// 1 where there is a value, for columns that may lack some.
    levels: Vec<i16>,
}

/// The file, as it is written.
pub struct Table {
    writer: SerializedFileWriter<File>,
    columns: [Column; COLUMNS.len()],
    rows: usize,
}

impl Table {
    /// An empty one.
    pub fn new(file: File) -> io::Result<Self> {
        let version = KeyValue::new("schema_version".to_owned(), SCHEMA_VERSION.to_string());
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_key_value_metadata(Some(vec![version]))
            .build();
        let writer = SerializedFileWriter::new(file, schema()?, Arc::new(properties))?;
        Ok(Table {
            writer,
            columns: std::array::from_fn(|_| Column::default()),
            rows: 0,
        })
    }

    /// One more row.
    pub fn put(&mut self, row: &Row<'_>) -> io::Result<()> {
        for (column, field) in self.columns.iter_mut().zip(fields(row)) {
            let there = match field {
                Field::Real(real) => {
                    column.reals.push(real);
                    true
                }
                Field::Number(number) => {
                    // Parquet's unsigned numbers are stored as the signed ones of the same bits.
                    column.numbers.extend(number.map(u64::cast_signed));
                    number.is_some()
                }
                Field::Text(text) => {
                    column.texts.extend(text.map(ByteArray::from));
                    text.is_some()
                }
            };
            column.levels.push(there.into());
        }
        self.rows += 1;
        if self.rows == GROUP {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let mut group = self.writer.next_row_group()?;
        for ((_, holds), column) in COLUMNS.iter().zip(&mut self.columns) {
            let Column {
                reals,
                numbers,
                texts,
                levels,
            } = std::mem::take(column);
            let Some(mut writer) = group.next_column()? else {
                break;
            };
            let optional = matches!(holds, Holds::MaybeNumber | Holds::MaybeText);
            let levels = optional.then_some(&levels[..]);
            match holds {
                Holds::Real => writer
                    .typed::<DoubleType>()
                    .write_batch(&reals, levels, None)?,
                Holds::Number | Holds::MaybeNumber => writer
                    .typed::<Int64Type>()
                    .write_batch(&numbers, levels, None)?,
                Holds::Text | Holds::MaybeText => writer
                    .typed::<ByteArrayType>()
                    .write_batch(&texts, levels, None)?,
            };
            writer.close()?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }

    /// Ends it.
    pub fn finish(mut self) -> io::Result<()> {
        if self.rows > 0 {
            self.write()?;
        }
        self.writer.close()?;
        Ok(())
    }
}

fn schema() -> io::Result<Arc<Type>> {
    let mut columns = Vec::with_capacity(COLUMNS.len());
    for (name, holds) in COLUMNS {
        let unsigned = LogicalType::integer(64, false);
        let (physical, logical) = match holds {
            Holds::Real => (Physical::DOUBLE, None),
            Holds::Number | Holds::MaybeNumber => (Physical::INT64, Some(unsigned)),
            Holds::Text | Holds::MaybeText => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let repetition = match holds {
            Holds::MaybeNumber | Holds::MaybeText => Repetition::OPTIONAL,
            _ => Repetition::REQUIRED,
        };
        let column = Type::primitive_type_builder(name, physical)
            .with_repetition(repetition)
            .with_logical_type(logical)
            .build()?;
        columns.push(Arc::new(column));
    }
    let schema = Type::group_type_builder("fault").with_fields(columns);
    Ok(Arc::new(schema.build()?))
}
