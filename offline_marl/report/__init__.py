"""Statements about finished runs: their scores, statistics with intervals, tables and pages."""
