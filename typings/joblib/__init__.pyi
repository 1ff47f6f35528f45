from joblib import hashing as hashing
