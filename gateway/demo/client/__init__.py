"""The demo's client process: users who send held-out digits to the gateway, and what they see.

__main__    the process
traffic     pace and connections
connection  one kept connection
answers     which answer is a failure
report      what is measured, and what goes to the parent
"""
