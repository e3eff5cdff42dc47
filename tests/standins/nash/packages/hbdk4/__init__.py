"""A STAND-IN for the vendor's hbdk4, which is not published: see hbdk4.compiler."""
