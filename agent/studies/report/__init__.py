"""What a study has come to, for people and programs: one HTML page, tables as CSV and Parquet, and two studies side by side."""
