"""Is a picture a copy of another?"""
